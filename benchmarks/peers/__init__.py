"""The gateway beside what a team would put in its place: the same load, the same upstream, interleaved rounds."""
