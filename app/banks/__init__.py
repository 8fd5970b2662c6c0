"""Lists → store → index in force: the second stream, which meets the media at the index alone."""
