"""The page for people and /api for programs, served beside /metrics by whatever process holds the store."""
