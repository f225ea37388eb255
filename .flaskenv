# Read by `flask run` on a clone only. The environment and .env win over it.
# It is not part of the wheel; keep it out of images.
GOBLIN_ENV=development
