package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
)

// patience is how long an answer may take.
const patience = 2 * time.Second

// serve answers HTTP at port 80 until its standard input ends.
func serve(name string) error {
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s, this is %s", from, name)
	}))
	if _, err := fmt.Println("listening"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// fetch gets a page of one line.
func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	return strings.TrimSpace(string(page)), err
}

func printFetched(ctx context.Context, url string) error {
	page, err := fetch(ctx, url)
	if err == nil {
		_, err = fmt.Println(page)
	}
	return err
}

// ping sends one ICMP echo request and prints how long the answer took. A sandbox is root's, so it may use a raw socket.
func ping(address string) error {
	to, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	conn, err := net.DialIP(network, nil, &net.IPAddr{IP: to.AsSlice()})
	if err != nil {
		return err
	}
	defer conn.Close()
	start := time.Now()
	if err := conn.SetDeadline(start.Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write(echo(request)); err != nil {
		return err
	}
	want := echo(reply)
	for answer := make([]byte, 1500); ; {
		n, _, err := conn.ReadFromIP(answer)
		if err != nil {
			return fmt.Errorf("no answer from %s: %w", to, err)
		}
		// Type and code, then the checksum, then what we had sent.
		if n == len(want) && answer[0] == reply && bytes.Equal(answer[4:n], want[4:]) {
			_, err = fmt.Println(time.Since(start).Round(time.Microsecond))
			return err
		}
	}
}

// echo is an ICMP message of a type. The checksum of IPv6 covers addresses too: the kernel writes it.
func echo(kind byte) []byte {
	m := []byte{kind, 0, 0, 0, 0, 0, 0, 1, 's', 'e', 'a', 'l', 'a', 'n', 'e', '.'}
	binary.BigEndian.PutUint16(m[4:], uint16(os.Getpid()))
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	return m
}
