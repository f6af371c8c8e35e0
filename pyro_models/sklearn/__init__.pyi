from .estimators import JMVAE as JMVAE
from .estimators import VAE as VAE
from .estimators import Autoencoder as Autoencoder
from .estimators import FewLabelsClassifier as FewLabelsClassifier
from .estimators import GaussianMixtureVAE as GaussianMixtureVAE
