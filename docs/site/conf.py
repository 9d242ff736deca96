"""How Sphinx builds the site. ``tools/site.py`` puts the sources together and calls it.

Nothing is loaded from the net: scripts, fonts and MathJax lie beside the pages.
"""

project = "Depth-adaptive language models, claim by claim"
author = "The authors of depth-adaptive-lm"
copyright = f"{author}. MIT licence"
language = "en"

extensions = ["myst_nb"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_static"]
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = "off"  # the outputs are those that are committed
nb_number_source_lines = False
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_title = "Depth-adaptive language models"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_last_updated_fmt = None
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_theme_options = {
    "repository_url": "https://github.com/depth-adaptive-lm/depth-adaptive-lm",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "collapse_navigation": True,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the side bar holds the one search field
}

# one script file beside the pages, without fonts to fetch; it draws formulas as SVG
mathjax_path = "mathjax/tex-svg.js"
