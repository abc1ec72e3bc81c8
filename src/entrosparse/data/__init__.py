"""Data: images and their whitening, patches of them, and the artificial bars."""

from entrosparse.data.bars import BarsData, bars
from entrosparse.data.images import Image, default_images, load_images
from entrosparse.data.patches import Patches, random_patches, tile_patches
from entrosparse.data.whitening import WHITENINGS, PreparedImages, prepare_images

__all__ = [
    "WHITENINGS",
    "BarsData",
    "Image",
    "Patches",
    "PreparedImages",
    "bars",
    "default_images",
    "load_images",
    "prepare_images",
    "random_patches",
    "tile_patches",
]
