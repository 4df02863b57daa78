"""What several tests use: real servers, certificates, clients."""
