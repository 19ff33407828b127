"""How sphinx reads this code: `make docs`."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

# The extensions beside this file.
sys.path.insert(0, str(Path(__file__).parent))

project = "flowclf"
release = installed("flowclf")
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "command_help",
    "gallery_page",
    "house_style",
    "offers",
    "settings_table",
]
exclude_patterns = ["_build"]

# `name` in a docstring links to what has that name, and is code otherwise.
default_role = "py:obj"
maximum_signature_line_length = 80
smartquotes = False
# An indented block of a docstring is more often a formula than a program.
highlight_language = "none"
python_display_short_literal_types = True
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
# Types are in the signature.
napoleon_attr_annotations = False

html_theme = "furo"
html_title = "flowclf"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "sidebar_hide_name": False,
    "navigation_with_keys": True,
}
