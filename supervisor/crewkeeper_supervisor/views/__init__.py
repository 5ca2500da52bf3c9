"""Views: the state of the core, made readable. They read and never act."""
