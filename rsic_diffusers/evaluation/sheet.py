"""Pictures side by side, with a line or two under each."""

from PIL import Image, ImageDraw, ImageFont


MARGIN = 8
LINE = 17


def draw_box(image: Image.Image, box) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).rectangle(box, outline=(255, 220, 0), width=max(2, min(image.size) // 150))
    return image


def make_sheet(pictures: list[tuple[Image.Image, str]], columns: int) -> Image.Image:
    """A sheet of pictures of one size, each with its label (lines split at newlines) under it."""
    width, height = pictures[0][0].size
    lines = max(label.count("\n") + 1 for _, label in pictures)
    cell_width, cell_height = width + MARGIN, height + MARGIN + lines * LINE
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for i, (picture, label) in enumerate(pictures):
        x, y = MARGIN + i % columns * cell_width, MARGIN + i // columns * cell_height
        sheet.paste(picture, (x, y))
        draw.multiline_text((x, y + height + 2), label, fill="black", font=font)
    return sheet
