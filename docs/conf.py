"""How Sphinx makes the site; `docs/build.py` gathers what it is made of, and calls it."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from batchnorm_mechanics._version import __version__  # noqa: E402 - from the checkout

project = "BatchNorm Mechanics"
author = "the authors of BatchNorm Mechanics"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "docstrings",
    "formulas",
]
# Notebooks come with their outputs: `make notebooks` runs them.
nb_execution_mode = "off"
# Else pages with widgets ask another host for their scripts.
nb_ipywidgets_js = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 4
myst_update_mathjax = False

# In our docstrings, as in Markdown, what stands in backticks is code.
default_role = "code"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
# The signature has the types of attributes, too.
napoleon_attr_annotations = False
napoleon_custom_sections = [
    "Implements",
    "Numerics",
    ("Attributes", "params_style"),
    ("Call arguments", "params_style"),
]
# What a signature names of other libraries has its page on other hosts.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!batchnorm_mechanics\.[a-z_.]*[A-Z]).*")]

html_theme = "sphinx_book_theme"
html_title = project
html_favicon = str(DOCS / "_static" / "favicon.svg")
# Light or dark as the reader's system is, until the reader chooses.
html_context = {"default_mode": "auto"}
html_static_path = ["_static", "_build/static"]
html_extra_path = ["_build/extra"]
html_js_files = ["access.js"]
html_css_files = ["katex/katex.min.css", "family.css", "site.css"]
html_search_scorer = str(DOCS / "_ext" / "scorer.js")
html_math_renderer = "katex"
html_copy_source = False
html_show_sphinx = False
# The page of the reference lists all names, and the search finds them.
html_use_index = html_domain_indices = False
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_issues_button": False,
    "footer_content_items": ["copyright.html"],
    # The field of the sidebar does.
    "navbar_persistent": [],
    "search_bar_text": "Search",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
