"""How Sphinx builds the documentation; `make docs` calls it."""

import re
from importlib.metadata import version as installed_version

from sphinx_gallery.sorting import ExplicitOrder

import entrosparse

project = "entrosparse"
author = "The authors of entrosparse"
copyright = author
version = release = installed_version("entrosparse")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "numpydoc",
    "myst_parser",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "gallery/**/*.ipynb"]
templates_path = ["_templates"]
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "entrosparse"
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("quickstart", "comparison")}
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

plot_html_show_formats = False
plot_html_show_source_link = False
plot_formats = [("png", 120)]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "backreferences_dir": "reference/examples",
    "doc_module": ("entrosparse",),
    "filename_pattern": r"\.py$",
    "within_subsection_order": ExplicitOrder(
        [
            "gabor_fields.py",
            "bars.py",
            "digits_uncertainty.py",
            "number_of_components.py",
            "imputation.py",
            "classification.py",
            "outliers.py",
            "shape_of_sparsity.py",
            "training_loop.py",
            "vae.py",
            "command_line_run.py",
        ]
    ),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "capture_repr": (),
    "remove_config_comments": True,
}
suppress_warnings = ["config.cache"]  # The order of the examples is an object that cannot be pickled.


def lead_to_the_gallery(app, docname, source):
    """Lead links to the files of examples, which hold in the repository, to their pages in the gallery."""
    text = re.sub(r"\]\(\.\./((?:\.\./)*)examples\)", r"](\1gallery/index.rst)", source[0])
    source[0] = re.sub(r"\]\(\.\./((?:\.\./)*)examples/(\w+)\.py\)", r"](\1gallery/\2.rst)", text)


def resolve_home(app, env, node, contnode):
    """Lead a reference such as ``entrosparse.learning.EpochRecord`` to the one page of the name."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in entrosparse.__all__:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", f"entrosparse.{name}", node, contnode)


def skip_foreign(app, what, name, member, skip, options):
    """Leave out methods that classes inherit from other packages."""
    home = getattr(member, "__module__", None) or ""
    return True if home.startswith(("sklearn.", "torch.")) else None


def setup(app):
    app.connect("autodoc-skip-member", skip_foreign)
    app.connect("source-read", lead_to_the_gallery)
    app.connect("missing-reference", resolve_home)
