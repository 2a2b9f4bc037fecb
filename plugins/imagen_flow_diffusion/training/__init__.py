"""Train what the drawing nodes run: LoRAs on captioned pictures."""
