"""A trained model as a Debian package for Raspberry Pi OS: `package.build_package`."""
