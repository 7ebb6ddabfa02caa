import pytest

from pcejax import jax_peer


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("ynn_fusion.22", "convolutions and dots"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128", "convolutions and dots"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816wgrad>", "convolutions and dots"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_TNT", "convolutions and dots"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "copies and transposes"),
        ("MemcpyD2D", "copies and transposes"),
        ("input_transpose_fusion", "copies and transposes"),
        ("input_multiply_reduce_fusion_4", "reductions"),
        ("loop_convert_fusion_3", "element by element"),
        ("bitcast_multiply_fusion.2", "element by element"),
        ("rng", "others"),
    ],
)
def test_a_kernel_is_told_by_its_name_on_cpus_and_gpus(kernel, kind):
    assert jax_peer.kind_of(kernel) == kind
