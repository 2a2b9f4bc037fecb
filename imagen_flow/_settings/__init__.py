"""Settings, trust and devices."""
