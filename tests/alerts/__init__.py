"""A real Prometheus over real fleets: every alert fires once by a real fault, none on a healthy fleet."""
