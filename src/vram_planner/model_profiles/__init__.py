"""Where an Architecture comes from: an alias, a catalogue row, a directory, a config.json."""
