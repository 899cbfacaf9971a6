package testcluster

import (
	"crypto/tls"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// ServerCertificate issues a certificate, by the cluster's own authority, for a
// server of the test on a loopback address: what stands in front of the API
// server presents one.
func (c *Cluster) ServerCertificate(name string) (tls.Certificate, error) {
	pair, err := c.ca.server(name, nil)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(pair.cert, pair.key)
}

// KubeconfigAt writes a kubeconfig for a server that presents a certificate of
// [Cluster.ServerCertificate], with a bearer token.
func (c *Cluster) KubeconfigAt(path, server, token string) error {
	return saveKubeconfig(path, server, c.ca.pem, &clientcmdapi.AuthInfo{Token: token})
}
