"""Manifests, hashes, and files that come with packages."""
