"""The site's style sheet begins with the colours of all our pages."""

import re

from batchnorm_mechanics._io.html import family_style


def family() -> str:
    """Return the colours of the family, by the theme that a reader chose on the site.

    Example:
        >>> 'html[data-theme="dark"] {' in family()
        True
    """
    light, dark = re.findall(r"\{([^{}]*--paper:[^{}]*)\}", family_style())
    return f'html {{{light}}}\nhtml[data-theme="dark"] {{{dark}}}\n'
