"""Data: images and their whitening, patches of them, and the artificial bars."""

from entrosparse.images._bars import BarsData, bars
from entrosparse.images._patches import Patches, random_patches, split_patches, tile_patches
from entrosparse.images._pictures import Image, default_images, load_images
from entrosparse.images._whitening import WHITENINGS, PreparedImages, prepare_images

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
    "split_patches",
    "tile_patches",
]
