"""A stream that breaks after its first token is continued on another pair, unseen by its client."""
