"""The aiohttp application: health, metrics, workers, information and fan-outs."""
