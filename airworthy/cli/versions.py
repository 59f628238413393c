"""Commands about registered versions: their history, a person's word on them, and which old ones are kept."""
