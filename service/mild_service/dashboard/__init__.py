"""The dashboard: pages over the same read path as the API, which shares its keys, limits and numbers."""
