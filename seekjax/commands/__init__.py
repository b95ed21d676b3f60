"""One file per console command."""
