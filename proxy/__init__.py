"""The service: pairs each request with a prefill and a decode, relays, masks failures."""
