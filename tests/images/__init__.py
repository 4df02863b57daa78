"""The images, built from the Dockerfile on stand-ins of their bases, and run."""
