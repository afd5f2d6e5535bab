"""What operators watch: metrics of the service, Prometheus's and Grafana's files for them, and `corral top`."""
