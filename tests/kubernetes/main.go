// Command kubernetes is what the tests need of a Kubernetes cluster, in one program: the API server,
// its store, kubectl and Helm, each as upstream has it. The tests start it; nothing else uses it.
package main

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	helm "helm.sh/helm/v4/pkg/cmd"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("expected apiserver, etcd, kubectl or helm, and its arguments"))
	}
	program := os.Args[1]
	os.Args = append([]string{program}, os.Args[2:]...)
	go endWithParent()
	switch program {
	case "apiserver":
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "kubectl":
		os.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))
	case "helm":
		command, err := helm.NewRootCmd(os.Stdout, os.Args[1:], helm.SetupLogging)
		fail(err)
		if err := command.Execute(); err != nil {
			os.Exit(1)
		}
	case "etcd":
		fail(etcd(os.Args[1:]))
	default:
		fail(fmt.Errorf("%q: expected apiserver, etcd, kubectl or helm", program))
	}
}

// endWithParent ends this process when the test that started it is gone, however that ended.
func endWithParent() {
	parent := os.Getppid()
	for os.Getppid() == parent {
		time.Sleep(time.Second)
	}
	os.Exit(1)
}

// etcd serves the folder at args[0] on the loopback URL at args[1] until a signal ends it. It does not
// sync: what it holds need not outlive the machine, only its own processes.
func etcd(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("expected a folder and a URL, found %d arguments", len(args))
	}
	address, err := url.Parse(args[1])
	if err != nil {
		return err
	}
	config := embed.NewConfig()
	config.Dir = args[0]
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	config.ListenClientUrls = []url.URL{*address}
	config.AdvertiseClientUrls = config.ListenClientUrls
	// No peers: any free port will do.
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case <-stop:
		return nil
	case err := <-server.Err():
		return err
	}
}

func fail(err error) {
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
