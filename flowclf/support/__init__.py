"""What every wing stands on: errors, seeds, devices, files, validation, collectives."""
