"""Model Card v2: schema, validation, and how a card is built."""
