"""How `make docs` builds the site: the pages of this folder, and an API reference from the docstrings of the package."""

import palinode

project = "Palinode"
author = "The Palinode developers"
version = release = palinode.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = []
html_theme = "furo"
html_title = f"Palinode {version}"
html_show_copyright = False
default_role = "code"  # docstrings write names as `name`
myst_heading_anchors = 4
# Pages also link to files of the repository (README.md, findings/, experiments/): on the site those links stay as they are.
suppress_warnings = ["myst.xref_missing"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_use_ivar = True


def keep_bars(app, what, name, obj, options, lines):
    """Docstrings write |x| for a size and reStructuredText would look for a substitution of that name."""
    lines[:] = [line.replace("|", "\\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", keep_bars)
