import torch

from ..version import check_torch

check_torch(torch.__version__)
