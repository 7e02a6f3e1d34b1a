"""Atomic writes, links, digests, manifests of folders, output paths, and files from packages."""
