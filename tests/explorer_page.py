"""The explorer's page in Chromium, as its tests use it."""

import numpy as np


class Explorer:
    """The page, and what stands in its cells."""

    def __init__(self, watched, path):
        self.watched, self.page, self.uri = watched, watched.page, path.resolve().as_uri()

    def go(self, address=""):
        """Open an address anew, as if it had been sent."""
        self.page.goto("about:blank")
        self.page.goto(self.uri + address)
        return self

    @property
    def address(self):
        # It follows a while after the last change.
        self.page.wait_for_timeout(250)
        return self.page.evaluate("location.hash")

    def cell(self, name, row=0, column=0):
        """Where a cell has the focus: its input, or itself."""
        return self.page.locator(f'[data-cell="{name}.{row}.{column}"]')

    def box(self, locator):
        """Where an element is, once it is in the middle of the window."""
        locator.evaluate("element => element.scrollIntoView({block: 'center'})")
        return locator.bounding_box()

    def drag(self, locator, across, *, drop=True):
        """Drag an element sideways by so many pixels."""
        box, mouse = self.box(locator), self.page.mouse
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + across, y, steps=10)
        if drop:
            mouse.up()

    def numbers(self, name):
        """The numbers of a grid, to the last digit."""
        found = self.page.evaluate(
            """name => [...document.querySelectorAll('[role=gridcell]')].flatMap(cell => {
                const stop = cell.dataset.cell ? cell : cell.querySelector('[data-cell]');
                const [own, row, column] = (stop?.dataset.cell ?? '').split('.');
                return own === name ? [[+row, +column, cell.dataset.value]] : [];
            })""",
            name,
        )
        assert found, f"there is no grid {name}"
        rows, columns = (1 + max(place[axis] for place in found) for axis in (0, 1))
        array = np.empty((rows, columns), np.float32)
        for row, column, value in found:
            array[row, column] = np.float32(value)
        return array

    def write(self, name, row, column, text):
        self.cell(name, row, column).fill(text)

    @property
    def formula(self):
        return self.page.locator(".inspector .seen").inner_text()

    @property
    def heard(self):
        return self.page.locator(".inspector [role=status]").inner_text()

    def code(self):
        """What "Copy as Python" gives."""
        self.page.get_by_role("button", name="Copy as Python").click()
        text = self.page.get_by_label("Python code").input_value()
        self.page.get_by_role("button", name="Close").click()
        return text
