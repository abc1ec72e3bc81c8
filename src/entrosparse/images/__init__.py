"""Data: images and their whitening, patches of them, and the artificial bars."""

from entrosparse.images._averages import average_patches as average_patches
from entrosparse.images._bars import BarsData as BarsData
from entrosparse.images._bars import bars as bars
from entrosparse.images._patches import Patches as Patches
from entrosparse.images._patches import random_patches as random_patches
from entrosparse.images._patches import split_patches as split_patches
from entrosparse.images._patches import tile_patches as tile_patches
from entrosparse.images._pictures import Image as Image
from entrosparse.images._pictures import default_images as default_images
from entrosparse.images._pictures import load_images as load_images
from entrosparse.images._pictures import load_mask as load_mask
from entrosparse.images._whitening import WHITENINGS as WHITENINGS
from entrosparse.images._whitening import PreparedImages as PreparedImages
from entrosparse.images._whitening import Whitening as Whitening
from entrosparse.images._whitening import prepare_images as prepare_images
