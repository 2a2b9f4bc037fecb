"""Attach adapters to a leased checkpoint for one call: LoRAs, embeddings, IP-Adapters, ControlNets."""
