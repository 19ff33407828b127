"""Ground floor: errors, seeds, devices, files, validation, collectives."""
