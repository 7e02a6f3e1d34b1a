"""Atomic writes, digests, manifests of folders, and files that come in pip and apt packages."""
