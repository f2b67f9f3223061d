"""What is said of a setting that cannot be used: apart from the settings, which a command needs only when it is called."""


class SettingsError(ValueError):
    """A setting that cannot be used; the text says which, where and what it may be."""
