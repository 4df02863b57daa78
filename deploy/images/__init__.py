"""What the Dockerfile runs while it builds, and what the images run to say how they are."""
