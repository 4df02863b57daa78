"""The desk: who is here, who is free, who is chosen. Pure: no asyncio, no I/O."""
