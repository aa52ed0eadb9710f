// Command sealane gives containers networks: its serve is the daemon, its other verbs ask the daemon with Docker's words.
//
//	sealane serve &
//	sealane network create blue
//	sealane run --network blue -p 8080:80 -- httpd -f
package main

import "os"

func main() {
	c := &cli{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	os.Exit(c.main(os.Args[1:]))
}
