"""Merge methods for matrices: of whole layers, by their singular vectors or inputs."""
