"""The door: listener, client connection, intake (bytes -> what routing needs), reply."""
