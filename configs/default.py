"""Every field of a run, with its default. The other configs start from this one."""

import ml_collections

from pcejax.errors import UserError


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """A U-Net on all labelled DeepGlobe tiles at half resolution, 50 balanced points per class and tile."""
    if variant:
        raise UserError(f"configs/default.py:{variant}: this config has no variants")
    config = ml_collections.ConfigDict()
    config.seed = 0  # initialisation, order of crops, augmentation; not which points
    config.init_from = ""  # workdir of a run whose parameters a fresh one starts from; "" for random or pretrained ones
    config.train_unknown = False  # whether unknown gets a logit and, with dense labels, is taught

    config.data = data = ml_collections.ConfigDict()
    data.name = "deepglobe"  # prepared dataset: "deepglobe" or "<builder>/<config>"
    data.data_dir = "data"  # folder that scripts/prepare_data.py filled
    data.train_split = "train"  # split, or slices such as "train[:6]+train[8:]"
    data.num_labelled_tiles = 0  # the first so many of train_split in an order by points.seed; 0 for all
    data.unlabelled_split = ""  # split whose tiles give crops without any label; "" for none
    data.eval_split = "crossvali"  # scored in and after training; GLNet reports on these 207 tiles; "" for no scores
    data.scale = 0.5  # training resolution: 1, 0.5 or 0.25 of the native one
    data.crop = 256  # side of a crop, pixels at the training scale
    data.anchored_share = 0.75  # share of the labelled tiles' crops laid around a labelled pixel, classes alike
    # Of a frozen encoder, without a decoder: in so many flips, turns and lights of each tile the features of labelled
    # pixels are computed once, and a step takes train.batch_size such pixels; 0 for steps that take crops.
    data.cached_views = 0
    data.unlabelled_share = 0.0  # share of the batch cut from unlabelled_split
    data.tiles = "device"  # where decoded tiles are: "device", or "host", in a file cache that crops are cut from
    data.device_memory_share = 0.6  # of a device's memory, the most that resident tiles may take
    data.cache_dir = "cache"  # of tiles on the host, and of what a frozen encoder saw; runs share it
    data.host_threads = 2  # that cut crops on the host; batches do not depend on how many

    config.points = points = ml_collections.ConfigDict()
    # Points: "uniform" | "balanced" | "component", or a person's: "file". Drawn: "scribble" | "block". All: "dense" |
    # "dense_balanced", whose classes are weighted alike on each tile: the fair reference for "balanced".
    points.annotator = "balanced"
    points.budget = 50  # points per tile (uniform), class and tile (balanced, file), connected component (component)
    points.held_out = 0  # of the budget, the last so many points of each stratum: none teaches, all calibrate the maps
    points.file = ""  # .csv, .geojson or .gpkg of a person's points; "" for those the dataset was prepared with
    points.seed = 0  # which points and which tiles; budgets of one seed are nested
    points.placement = "random"  # "random" | "interior" (likelier far from a border) | "boundary" (near one)
    points.boundary_px = 10  # native pixels from a component's border that "boundary" clicks within
    points.min_distance_px = 0  # native pixels between any two points of a tile, at least; 0 for no rule
    points.min_area = 400  # native pixels of the least component that component and scribble label; 100 m2 at 0.5 m
    points.click_jitter_px = 0  # native pixels that a click lies off at most; its class stays the one meant
    points.label_noise = 0.0  # share of points that get another class
    points.label_confusion = ()  # a row for each known class: how often a wrong click is called what; () for all alike
    points.point_radius = 0  # native pixels; a point teaches the disc around it, across borders like a thick click
    points.scribble_width = 5  # native pixels across a stroke; 5 still is 2 or 3 at half resolution
    points.scribble_share = 0.5  # of the length of a component's centre line that the stroke covers
    points.block_px = 64  # native pixels, side of the patch of a class

    config.augment = augment = ml_collections.ConfigDict()
    augment.dihedral_moves = True  # flips and quarter turns: overhead imagery has no up
    augment.brightness = 0.2  # factor exp(+-0.2) on all bands
    augment.color = 0.1  # factor exp(+-0.1) on each band
    augment.contrast = 0.0  # factor exp(+-contrast) on the distance from the crop's mean
    augment.hue = 0.0  # turns of the colours about grey, at most; for three bands alone
    augment.blur = 0.0  # share of the crops that are blurred, by up to 1.5 pixels

    config.model = model = ml_collections.ConfigDict()
    # What goes down: "plain", convolutions and max-pooling | "efficientnet-lite0" | "efficientnet-lite1" |
    # "efficientnet-lite2", with batch norm, and features of their own.
    model.encoder = "plain"
    model.pretrained = True  # whether an EfficientNet starts from ImageNet's weights
    model.frozen_stages = 0  # the encoder's first levels, which stay as they start
    model.frozen_statistics = False  # whether the encoder's batch norms keep the statistics that they start with
    # What goes up again: "convolutions", a U-Net's | "none": the encoder's levels are joined, as fusion.fuse says, and
    # a pixel's logits are made of what lies under it.
    model.decoder = "convolutions"
    model.scales = (1,)  # without a decoder: the encoder sees the image reduced so many times, some of 1, 2 and 4
    # Times down, 1 to 7, or to 5 with an EfficientNet; 2448 = 16 * 153, so 4 needs no padding at full resolution.
    model.depth = 4
    model.width = 32  # features of the first level
    model.gflops = 0.0  # of a forward pass over 256x256 pixels, which the width is then chosen for; 0 takes the width
    model.widening = 2.0  # factor of the features from a level to the next, rounded to what group norm divides
    model.blocks = 1  # of two 3x3 convolutions each, on every level of the way down and of the way up
    model.residual = False  # whether a block adds its input; for many blocks in a row
    model.norm = "group"  # "group" | "batch" (synchronised over devices) | "none"
    model.upsample = "transposed"  # "transposed" | "bilinear" | "nearest"
    model.dropout = 0.0  # share of the bottleneck's feature maps that a training crop loses
    model.remat = False  # compute a level's activations again in the backward pass: less is kept, a third more work
    model.dtype = "float32"  # of the computation: "bfloat16" on accelerators; parameters stay float32
    model.fusion = fusion = ml_collections.ConfigDict()
    fusion.at = ""  # where features of several scales are fused: "" | "bottleneck" | "decoder" (its levels) | "both"
    fusion.branches = "pooling"  # what sees the scales: "pooling" (means over grids) | "dilated" (convolutions)
    fusion.fuse = "concat"  # how branches, and a decoder's levels, are fused: "concat" | "sum"
    fusion.grids = (1, 2, 4, 8)  # of "pooling": cells a side of the map; 1 is the mean of all
    fusion.rates = (2, 4, 6)  # of "dilated": pixels of the map between a kernel's taps
    fusion.features = 0  # of each branch; 0 for the map's features divided by the number of branches
    fusion.plain_control = False  # plain convolutions of as many parameters in the branches' place

    config.loss = loss = ml_collections.ConfigDict()
    loss.class_weights = ()  # one for each class that has a logit; () for equal weights
    loss.effective_number_beta = 0.0  # above 0, such as 0.999: class weights from the counts of the run's labels
    loss.balance_crops = False  # a class weighs as much in a crop with one of its points as in one with a cluster
    # The loss is the sum of the terms whose weight is above 0. A weight is 0 before step `start`, then grows over
    # `warmup_steps`. docs/losses.md tells what each is, and what it was measured to be worth.
    of_labels = ("partial_cross_entropy", "hard_pixel_cross_entropy", "partial_dice")
    for_comparison = ("all_pixel_cross_entropy", "unknown_class_cross_entropy")
    of_all_pixels = ("entropy", "total_variation", "gated_crf", "consistency", "pseudo_labels", "propagation")
    for name in of_labels + for_comparison + of_all_pixels:
        loss[name] = ml_collections.ConfigDict({"weight": 0.0, "start": 0, "warmup_steps": 0})
    loss.partial_cross_entropy.weight = 1.0
    loss.partial_cross_entropy.label_smoothing = 0.0  # share of the target spread over all classes
    loss.partial_cross_entropy.focal_gamma = 0.0  # exponent of (1 - p); 0 for none
    loss.partial_cross_entropy.weighted_mean = True  # divided by the class weights of the pixels, else by their number
    loss.hard_pixel_cross_entropy.share = 0.5  # of a crop's labelled pixels, those with the largest loss
    loss.hard_pixel_cross_entropy.least = 4  # pixels of a crop, where it has as many
    loss.gated_crf.radius = 5  # pixels at the training scale
    loss.gated_crf.sigma_color = 0.1  # of bands in [0, 1]
    loss.gated_crf.sigma_position = 6.0  # pixels at the training scale
    loss.pseudo_labels.confidence = 0.9  # teacher's probability, at least
    loss.propagation.reach = 16  # pixels at the training scale
    loss.propagation.color_cost = 4.0  # of a step, for a difference of 1 summed over the bands
    loss.propagation.teacher_cost = 1.0  # of a step, for a difference of 1 summed over the classes
    loss.propagation.step_cost = 0.03  # of any step

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.learning_rate = 1e-3  # the largest
    optimizer.encoder_lr_factor = 1.0  # on the encoder's learning rate: less than 1 keeps more of what it knows
    optimizer.warmup_steps = 100  # linear from 0; then a cosine to 0
    optimizer.weight_decay = 1e-2  # on kernels alone
    optimizer.grad_clip_norm = 1.0  # largest global norm of a gradient

    config.train = train = ml_collections.ConfigDict()
    train.num_steps = 10_000  # optimizer steps
    train.batch_size = 32  # crops a step, over all devices
    train.accumulation = 1  # micro-batches that a device's crops of a step are taken in, for less memory
    train.ema_decay = 0.995  # of the running mean of parameters, which is what is scored
    train.log_every_steps = 50
    train.checkpoint_every_steps = 1_000
    train.checkpoint_every_minutes = 10.0  # also; 0 for by steps alone
    train.keep_checkpoints = 2  # the newest so many
    train.keep_every_steps = 0  # and those of multiples of it; 0 for none
    train.max_skipped_steps = 0  # steps whose loss or gradient is not finite, that a run goes on without
    train.profile_steps = ()  # (first, last) of the steps that jax.profiler traces into <workdir>/profile
    train.compilation_cache = ""  # folder of compiled programs that runs share; "" for none
    train.eval_every_steps = 0  # scores eval_split so often; 0 for at the end only
    train.pictures_every_evaluations = 1  # shows their maps on TensorBoard so often; 0 for never

    config.inference = inference = ml_collections.ConfigDict()
    inference.window = 512  # side of a window, pixels at the training scale
    inference.overlap = 128  # pixels that neighbouring windows share at least
    inference.batch_size = 4  # windows a call, over a process's devices
    inference.adapt_priors = False  # of classes to a window's own shares; for labels that have all classes alike
    # Metres, sigma of Gaussian means of class probabilities; nothing is smoothed where a pixel's size is unknown.
    inference.smoothing_m = 0.0
    inference.buffer_px = 8  # native pixels around the points of a clicked tile that are not scored
    return config
