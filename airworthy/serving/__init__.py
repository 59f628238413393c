"""The serving room: KServe model server, traffic splitter, request replay and the smoke test."""
