"""`twinlens keys`: who may use the service. Works on the data directory, without a service."""
