// Init is the first process of machines that tests boot.
package main

import "github.com/sealane/sealane/internal/vm"

func main() { vm.Init() }
