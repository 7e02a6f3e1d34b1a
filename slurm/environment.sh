# Sourced by every job script on every attempt, before anything else. Edit it for your site.
# The scripts call the Python that ran `dskd submit` by its full path, so a virtual environment on a
# shared file system needs no line here.

# Modules that the site needs, for example:
# module purge
# module load cuda/12.4 gcc/12

# The network between nodes. Set these if processes of different nodes do not find each other.
# export NCCL_SOCKET_IFNAME=ib0
# export GLOO_SOCKET_IFNAME=ib0
# export NCCL_IB_HCA=mlx5

# Compute nodes often have no internet: models and texts must then be in the caches already.
# export HF_HOME=/lustre/huggingface
# export HF_HUB_OFFLINE=1

# Compiled DeepSpeed operators, per user. A folder on the node is faster than a shared one.
# export TORCH_EXTENSIONS_DIR=/tmp/$USER/torch_extensions
