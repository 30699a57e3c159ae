"""What the page accepts, so that no visitor can take the server from the others."""

MAX_UPLOAD_BYTES = 40 << 20
MAX_PHOTO_PIXELS = 1 << 26  # of an uploaded photo, before it is made smaller
WORK_SIDE = 1536  # long side in pixels that a larger photo is reduced to
MAX_CODED_PIXELS = 1024 * 1024  # of a file to decode: diffusion runs on these
MAX_RETURNED_PIXELS = WORK_SIDE * WORK_SIDE  # a larger picture is returned at the size it was coded at
MAX_BOXES = 6
MAX_CAPTION_CHARACTERS = 300
QUEUE_LENGTH = 16  # visitors who wait; more are told to come back later
KEEP_SECONDS = 3000  # how long results lie on the server
SWEEP_SECONDS = 600  # how often old ones are looked for
REFINEMENT_STEPS = 4
