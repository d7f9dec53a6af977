"""A small valid call of each public function, on toys; and the names that take nothing a user could get wrong, with the reason."""
import copy
from functools import cached_property

import torch
from PIL import Image

from badinput import Call, public
from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.nes import NES
from triqdef.attack.patch import Patch
from triqdef.attack.mpa import MPA
from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.data import ImageTensors
from triqdef.evaluate.lines import AuditBudget
from triqdef.evaluate.doublemask import DoubleMask
from triqdef.evaluate.success import asr_all
from triqdef.evaluate.transfer import transfer_matrix
from triqdef.models import build_model
from triqdef.purify.denoiser import Denoiser
from triqdef.purify.jedi import JEDI
from triqdef.quant.checkpoint import save_checkpoint
from triqdef.quant.convert import calibrate, keep_bits, to_multibit
from triqdef.toys import toy_images, toy_net
from triqdef.train.curriculum import BACT
from triqdef.train.objective import Objective
from triqdef.train.pbcat import CompositePGD

BITS = (32, 4, 2)
TINY = AuditBudget(n=8, steps=1, queries=2, n_smooth=2, smooth_steps=1, copies=1)


class World:
    "What the calls work on; `root` holds every file."
    def __init__(self, root):
        self.root, self.folder, self.file = root, root/'folder', root/'file'
        (self.folder/'empty').mkdir(parents=True)
        self.file.write_text('mine')
        self.x, self.y = toy_images(8)
        self.x = (self.x*255).round()/255
        self.dl, self.map = [(self.x, self.y)], self.x.mean(1, keepdim=True)
        self.plain = toy_net().eval()
        self.net = calibrate(to_multibit(self.plain, BITS).eval(), [toy_images(16, seed=3)])
        with torch.no_grad(): self.logits = self.net(self.x)
        self.patch, self.pgd = Patch(torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))), PatchPGD(4, steps=1, seed=0)
        self.saved = save_checkpoint(self.net, root/'net.safetensors', 'toy_net', 4)
        self.pred, self.spare = self.y.clone(), copy.deepcopy(self.net)
        self.other = build_model('resnet8', 4, width=4).eval()
        self.patch_file, self.pictures = self.patch.save(root/'patch'), root/'pictures'
        for i in range(8):
            self.picture = self.pictures/'ab'[i % 2]/f'{i}.png'
            self.picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (12, 12), (20*i, 0, 0)).save(self.picture)
    def nets(self): return self.net, self.plain, self.spare
    @cached_property
    def matrix(self): return transfer_matrix(self.net, self.dl, {'pgd': self.pgd}, nulls=True, progress=False)


ATTACK = dict(size=4, seed=0, target=None)
RUN = lambda w: dict(net=w.net, x=w.x, y=w.y, bits=4)

# name → its arguments; or (function, arguments) for a method or another call
CALLS = {
    # ground
    'checks.check_bit': lambda w: dict(b=4),
    'checks.check_bits': lambda w: dict(bits=(4, 2)), 'pixels.check_images': lambda w: dict(x=w.x), 'pixels.fast_layout': lambda w: dict(x=w.x),
    'pixels.Normalize': lambda w: dict(mean=(.5,)*3, std=(.5,)*3), 'pixels.Normalize.forward': lambda w: (w.plain.norm.forward, dict(x=w.x)),
    'seeds.seed_everything': lambda w: dict(seed=0), 'seeds.fixed_seed': lambda w: dict(seed=0), 'seeds.generator': lambda w: dict(seed=0),
    'networks.eval_mode': lambda w: dict(net=w.net), 'networks.check_logits': lambda w: dict(out=w.logits, n=8, classes=4), 'networks.device_of': lambda w: dict(net=w.net),
    'pixels.images_at_once': lambda w: dict(x=w.x, most=4), 'core.atomic_path': lambda w: dict(path=w.folder/'new'), 'core.versions': lambda w: dict(device='cpu'),
    'toys.toy_images': lambda w: dict(n=4, classes=4, size=8, seed=0), 'toys.toy_net': lambda w: dict(classes=4, width=4, seed=0), 'toys.ToyNet': lambda w: dict(classes=4, width=4),
    'toys.tensor_dls': lambda w: dict(train=(w.x, w.y), valid=(w.x, w.y), bs=4, device='cpu'), 'toys.toy_dls': lambda w: dict(n=8, bs=4, classes=4, size=8, seed=0),
    'toys.trained_toy': lambda w: dict(steps=1, classes=4, size=8, seed=0),
    'datasets.ImageTensors': lambda w: dict(x=w.x, y=w.y), 'epochs.ImageLoader': lambda w: dict(dataset=ImageTensors(w.x, w.y), bs=4, pad=1, seed=0),
    'loader.image_dls': lambda w: dict(train=ImageTensors(w.x, w.y), valid=ImageTensors(w.x, w.y), bs=4, val_bs=4, pad=1, seed=0, device='cpu'),
    'datasets.balanced_order': lambda w: dict(y=w.y, seed=0), 'datasets.split_tensors': lambda w: dict(x=w.x, y=w.y, n=4, seed=0),
    'cifar.sample_dls': lambda w: dict(bs=4, valid='test', valid_n=10, train_n=10, pad=1, seed=0, val_bs=4, device='cpu'),
    'cifar.cifar_dls': lambda w: dict(path=w.folder/'cifar', device='cpu'), 'cifar.cifar_tensors': lambda w: dict(path=w.folder/'cifar'),
    'data.image_folder_dls': lambda w: dict(path=w.pictures, size=8, bs=2, share=.5, seed=0, val_bs=2, device='cpu'), 'pictures.read_image': lambda w: dict(path=w.picture, size=8),
    'pictures.open_rgb': lambda w: dict(path=w.picture), 'folders.class_files': lambda w: dict(folder=w.pictures), 'batches.take': lambda w: dict(dl=w.dl, n=4),
    'batches.check_loader': lambda w: dict(dl=w.dl, net=w.net),
    'models.build_model': lambda w: dict(name='resnet8', n_classes=4), 'models.cifar_resnet': lambda w: dict(depth=8, n_classes=4),
    'models.CifarResNet': lambda w: dict(n=1, n_classes=4, width=4), 'models.resnet20': lambda w: dict(n_classes=4), 'models.resnet56': lambda w: dict(n_classes=4),
    'models.BasicBlock': lambda w: dict(n_in=4, n_out=8, stride=2), 'models.ChannelPad': lambda w: dict(n_in=4, n_out=8, stride=2),
    'files.write_json': lambda w: dict(path=w.folder/'new', v={}), 'files.read_json': lambda w: dict(path=w.file, format='any'),
    'files.Resume': lambda w: dict(path=w.folder/'new', key='k', every=1.),
    'classifiers.check_arch': lambda w: dict(name='resnet8'), 'classifiers.build_any': lambda w: dict(name='resnet8', n_classes=4), 'classifiers.classifier': lambda w: dict(name='resnet18', n_classes=4),
    'classifiers.read_state': lambda w: dict(path=w.saved), 'classifiers.Classifier': lambda w: dict(net=w.plain), 'unfuse.unfuse': lambda w: dict(model=w.plain),
    # quantized networks
    'quant.base.levels': lambda w: dict(width=4, signed=True),
    'quant.registry.make_quantizer': lambda w: dict(name='lsq', widths={4: 4}, kind='weight'), 'quant.quantizers.LSQ': lambda w: dict(widths={4: 4}, kind='weight'),
    'quant.quantizers.MinMax': lambda w: dict(widths={4: 4}, kind='weight', momentum=.1), 'quant.registry.quantizer_class': lambda w: dict(name='lsq', kind='weight'),
    'quant.registry.quantizer_names': lambda w: dict(kind='weight'), 'quant.base.steps_of': lambda w: dict(net=w.net),
    'quant.ste.soft_round': lambda w: dict(u=w.map, temperature=.25), 'quant.layers.BitState': lambda w: dict(allowed=(32, 4)),
    'quant.convert.to_multibit': lambda w: dict(model=w.plain, bits=(32, 4), weight='lsq', act='lsq', first_last=8, sums='quantized'),
    'quant.switch.bit_state_of': lambda w: dict(net=w.net), 'quant.switch.bits_of': lambda w: dict(net=w.net), 'quant.switch.at_bits': lambda w: dict(net=w.net, bits=4),
    'quant.switch.idle_parameters': lambda w: dict(net=w.net, active=(4,)), 'quant.frozen.weights_once': lambda w: dict(net=w.net, what='values'),
    'quant.switch.backward_as': lambda w: dict(net=w.net, how='soft', temperature=.25),
    'quant.calibrate.calibrate': lambda w: dict(net=w.spare, dl=w.dl, n_batches=1, bits=(4,), method='mse'), 'quant.convert.quant_table': lambda w: dict(net=w.net),
    'quant.equalize.equalize': lambda w: dict(model=w.plain, rounds=1), 'quant.equalize.scale_pairs': lambda w: dict(model=w.plain),
    'quant.biascorrect.correct_bias': lambda w: dict(net=keep_bits(w.net, 4), model=w.plain, dl=w.dl, n_batches=1),
    'quant.convert.quant_summary': lambda w: dict(net=w.net), 'quant.convert.keep_bits': lambda w: dict(net=w.net, bits=4),
    'quant.checkpoint.save_checkpoint': lambda w: dict(net=w.net, path=w.folder/'new', arch='toy_net', n_classes=4), 'quant.checkpoint.read_tensors': lambda w: dict(path=w.saved),
    'quant.checkpoint.description_of': lambda w: dict(net=w.net, arch='toy_net', n_classes=4),
    'quant.checkpoint.read_description': lambda w: dict(path=w.saved), 'quant.checkpoint.load_weights': lambda w: dict(net=w.net, path=w.saved),
    'quant.checkpoint.load_checkpoint': lambda w: dict(path=w.saved, device='cpu'), 'quant.checkpoint.pretrained': lambda w: dict(name='cifar10-resnet20-fp', device='cpu'),
    'quant.memory.block_names': lambda w: dict(net=w.net), 'quant.memory.checkpointed': lambda w: dict(net=w.net), 'quant.norm.sync_norms': lambda w: dict(net=w.net, on=False),
    # perception and penalties
    'percept.maps.check_maps': lambda w: dict(m=w.map), 'percept.maps.check_pair': lambda w: dict(a=w.map, b=w.map),
    'percept.edges.gaussian_smooth': lambda w: dict(m=w.map, sigma=1.), 'percept.edges.minmax_scale': lambda w: dict(m=w.map), 'percept.edges.sobel_magnitude': lambda w: dict(m=w.map),
    'percept.edges.soft_edges': lambda w: dict(m=w.map, threshold=1., temperature=.1), 'percept.edges.edge_iou': lambda w: dict(a=w.map, b=w.map, threshold=1., temperature=.1, smooth=1.),
    'percept.edges.canny_edges': lambda w: dict(m=w.map, sigma=1.), 'percept.edges.sobel_edges': lambda w: dict(m=w.map, threshold=1.),
    'percept.edges.canny_iou': lambda w: dict(a=w.map, b=w.map, sigma=1.), 'percept.edges.sobel_iou': lambda w: dict(a=w.map, b=w.map, threshold=1.),
    'percept.hog.hog': lambda w: dict(m=w.map, orientations=9, cell=4, block=3), 'percept.hog.soft_hog': lambda w: dict(m=w.map, orientations=9, cell=4, block=3),
    'percept.hog.hog_cosine': lambda w: dict(a=w.map, b=w.map, orientations=9, cell=4, block=3, smooth=1.),
    'percept.features.feature_map': lambda w: dict(f=w.x), 'percept.features.stage_names': lambda w: dict(net=w.net), 'percept.features.tap_stages': lambda w: dict(net=w.net, names=('layer1',)),
    'percept.gradients.input_gradient': lambda w: dict(net=w.net, x=w.x, y=w.y), 'percept.gradients.gradient_map': lambda w: dict(g=w.x),
    'penalty.fdp.bit_pairs': lambda w: dict(bits=(32, 4, 2)), 'penalty.fdp.map_likeness': lambda w: dict(maps={32: w.map, 4: w.map}, w_edge=1., w_hog=1., smooth=1.),
    'penalty.fdp.fdp': lambda w: dict(features={32: [w.x], 4: [w.x]}, w_edge=1., w_hog=1., smooth=1.), 'penalty.gpdp.gpdp': lambda w: dict(gradients={32: w.x, 4: w.x}, w_edge=1., w_hog=1., smooth=1.),
    # patches
    'attack.cover.mask_starts': lambda w: dict(length=16, patch=4, masks=3), 'attack.cover.mask_set': lambda w: dict(image_hw=(16, 16), patch_hw=4, masks=2, patches=1), 'attack.cover.covered': lambda w: dict(masks=torch.ones(1, 16, 16).bool(), hw=4),
    'evaluate.doublemask.DoubleMask': lambda w: dict(net=w.net, patch=2, masks=2, patches=1, fill=.5, bs=8), 'evaluate.doublemask.DoubleMask.forward': lambda w: (DoubleMask(w.net, 2, masks=2).forward, dict(x=w.x)),
    'evaluate.disagree.distributions': lambda w: dict(net=w.net, x=w.x, bits=(4, 2), bs=8), 'evaluate.disagree.disagreement': lambda w: dict(net=w.net, x=w.x, bits=(4, 2), bs=8),
    'evaluate.detect.occluded': lambda w: dict(x=w.x, size=4, seed=0),
    'evaluate.certified.certified': lambda w: dict(net=w.net, x=w.x, y=w.y, patch=2, bits=(4,), masks=2, patches=1, fill=.5, bs=64),
    'attack.placing.patch_hw': lambda w: dict(size=4), 'attack.placing.check_fits': lambda w: dict(hw=(4, 4), image_hw=(16, 16)), 'attack.placing.patch_mask': lambda w: dict(h=4, w=4, shape='circle', device='cpu'),
    'attack.placing.place': lambda w: dict(x=w.x, patch=w.patch.image, top_left=(0, 0), angle=10., scale=1.), 'attack.places.allowed_places': lambda w: dict(image_hw=(16, 16), hw=(4, 4)),
    'attack.places.random_places': lambda w: dict(B=4, image_hw=(16, 16), hw=(4, 4)), 'attack.nulls.noise_patch': lambda w: dict(x=w.x, size=4),
    'attack.nulls.grey_patch': lambda w: dict(x=w.x, size=4), 'attack.nulls.crop_patch': lambda w: dict(x=w.x, size=4), 'attack.nulls.null_patch': lambda w: dict(kind='grey', x=w.x, size=4),
    'attack.patch.Patch': lambda w: dict(image=w.patch.image, target=1), 'attack.patch.Patch.apply': lambda w: (w.patch.apply, dict(x=w.x, top_left=(0, 0), angle=10., scale=1.)),
    'attack.patch.Patch.area': lambda w: (w.patch.area, dict(image_hw=(16, 16))), 'attack.patch.Patch.save': lambda w: (w.patch.save, dict(path=w.folder/'new')),
    'attack.patch.Patch.to': lambda w: (w.patch.to, dict(device='cpu')), 'attack.patch.Patch.load': lambda w: (Patch.load, dict(path=w.patch_file)),
    'attack.criteria.Criterion': lambda w: dict(target=1, loss='ce', confidence=.9, temperature=1.), 'attack.criteria.Untargeted': lambda w: dict(loss='ce', temperature=1.),
    'attack.criteria.Targeted': lambda w: dict(target=1, loss='ce', temperature=1.), 'attack.criteria.Confident': lambda w: dict(target=1, confidence=.9, loss='ce', temperature=1.),
    'attack.criteria.as_criterion': lambda w: dict(target=1), 'attack.criteria.goal_loss': lambda w: dict(logits=w.logits, y=w.y, target=1), 'attack.criteria.goal_met': lambda w: dict(logits=w.logits, y=w.y, target=1),
    'attack.criteria.check_classes': lambda w: dict(net=w.net, x=w.x, y=w.y, target=1),
    'attack.pgd.PatchPGD': lambda w: dict(ATTACK, steps=1, step_size=.1, stride=2, move_every=5, restarts=1), 'attack.pgd.PatchPGD.run': lambda w: (w.pgd.run, RUN(w)), 'attack.pgd.PatchPGD.attack': lambda w: (w.pgd.attack, RUN(w)),
    'attack.gap.GAP': lambda w: dict(ATTACK, steps=1, bs=4, lr=.1, angle=10.), 'attack.gap.GAP.fit': lambda w: (GAP(4, 1, steps=1, bs=8, seed=0).fit, dict(net=w.net, dl=w.dl, bits=4)),
    'attack.lavan.LaVAN': lambda w: dict(ATTACK, steps=1, step_size=.1, bs=4, confidence=.9, candidates=2), 'attack.lavan.LaVAN.run': lambda w: (LaVAN(4, steps=1, seed=0).run, RUN(w)),
    'attack.lavan.LaVAN.attack': lambda w: (LaVAN(4, steps=1, seed=0).attack, RUN(w)), 'attack.lavan.LaVAN.fit': lambda w: (LaVAN(4, steps=1, bs=8, seed=0).fit, dict(net=w.net, dl=w.dl, bits=4)),
    'attack.sparse_rs.SparseRS': lambda w: dict(ATTACK, queries=2, alpha=.3, move_every=5, bs=4, resample=2), 'attack.sparse_rs.SparseRS.run': lambda w: (SparseRS(4, queries=2, seed=0).run, RUN(w)),
    'attack.sparse_rs.SparseRS.attack': lambda w: (SparseRS(4, queries=2, seed=0).attack, RUN(w)), 'attack.sparse_rs.SparseRS.fit': lambda w: (SparseRS(4, queries=2, bs=8, seed=0).fit, dict(net=w.net, dl=w.dl, bits=4)),
    'attack.nes.NES': lambda w: dict(ATTACK, queries=8, samples=2, sigma=.1, step_size=.1, momentum=.9, tries=1, chunk=8), 'attack.nes.NES.run': lambda w: (NES(4, queries=4, samples=2, seed=0).run, RUN(w)),
    'attack.nes.NES.attack': lambda w: (NES(4, queries=4, samples=2, seed=0).attack, RUN(w)),
    'attack.mpa.MPA': lambda w: dict(n_patches=1, area_each=.1, queries=4, target=None, sigma=.3, patience=0, samples=2, bins=4, lr=2., entropy=.02, bs=8, seed=0),
    'attack.agent.PatchAgent.run': lambda w: (MPA(1, queries=4, samples=2, seed=0).run, RUN(w)), 'attack.agent.PatchAgent.attack': lambda w: (MPA(1, queries=4, samples=2, seed=0).attack, RUN(w)),
    'attack.agreeing.AgreeingEnsemble': lambda w: dict(bits=(4, 2), together=1.),
    'attack.ensemble.BitEnsemble': lambda w: dict(bits=(4, 2), rate=.5, floor=.05, seed=0), 'attack.ensemble.RandomPrecision': lambda w: dict(bits=(4, 2), samples=2, seed=0),
    'attack.ensemble.Smoothed': lambda w: dict(bits=4, sigma=.03, n=2, seed=0), 'attack.ensemble.BackwardSwap': lambda w: dict(bits=4, backward='soft', temperature=.25), 'attack.ensemble.FeaturePull': lambda w: dict(bits=(4, 2), weight=1.),
    # training
    'train.masked.MaskedQAT': lambda w: dict(bits=(4, 2), hide=5, masks=6), 'train.masked.MaskedTriQDef': lambda w: dict(bits=(4, 2), hide=5, masks=6),
    'train.curriculum.BACT': lambda w: dict(bits=(4, 2), warmup=.3, max_active=2, ramp=.1, seed=0),
    'train.objective.Objective': lambda w: dict(lambda_adv=1., lambda_fdp=.1, lambda_gpdp=.1, smooth=1., distill=.5),
    'train.objective.Objective.__call__': lambda w: (Objective(1., .1, .1, smooth=1.).__call__, dict(net=w.net, x=w.x, y=w.y, x_adv=w.x, bits=(4, 2))),
    'train.base.TrainingCallback': lambda w: dict(bits=(4, 2), seed=0),
    'train.callback.TriQDef': lambda w: dict(lambda_adv=1., lambda_fdp=.1, lambda_gpdp=.1, seed=0), 'train.callback.PatchAT': lambda w: dict(lambda_adv=1.), 'train.callback.JointQAT': lambda w: dict(bits=(4, 2)),
    'train.controls.GradientNoise': lambda w: dict(lambda_adv=1., sigma=.5), 'train.controls.GradientSmooth': lambda w: dict(lambda_adv=1., weight=.1, sigma=1.), 'train.controls.SmoothObjective': lambda w: dict(lambda_adv=1., smooth=1., distill=.5),
    'train.controls.roughness': lambda w: dict(g=w.x, sigma=1.), 'train.dwq.OneBit': lambda w: dict(bits=(4, 2), seed=0), 'train.dwq.DWQ': lambda w: dict(share=1.), 'train.dwq.RPI': lambda w: dict(net=w.net, bits=(4, 2), seed=0),
    'train.pbat.PBAT': lambda w: dict(share=.5), 'train.diverse.Diverse': lambda w: dict(lambda_adv=1., diversity=.5), 'train.diverse.DiverseObjective': lambda w: dict(lambda_adv=1.),
    'train.diverse.wrong_agreement': lambda w: dict(a=torch.rand(len(w.y), 4), b=torch.rand(len(w.y), 4), y=w.y), 'train.pbat32.PBAT32': lambda w: dict(share=.5, qat_epochs=0), 'train.pbcat.PBCAT': lambda w: dict(lambda_adv=1.), 'train.pbcat.CompositePGD': lambda w: dict(size=4, steps=1, eps_patch=.25, eps_global=.01, cell=2, share=.5, seed=0),
    'train.pbcat.CompositePGD.attack': lambda w: (CompositePGD(4, steps=1, seed=0).attack, RUN(w)), 'train.pbcat.guided_cells': lambda w: dict(g=w.x, top_left=torch.zeros(8, 2).long(), size=(4, 4), cell=2, share=.5),
    'train.folder.check_writable': lambda w: dict(folder=w.folder/'new'), 'train.folder.load_run': lambda w: dict(folder=w.folder/'run'),
    # evidence
    'evaluate.rate.wilson': lambda w: dict(k=3, n=10, level=.9), 'evaluate.rate.Rate': lambda w: dict(k=3, n=10, level=.9), 'evaluate.success.asr': lambda w: dict(clean=w.pred, adv=w.pred, y=w.y),
    'evaluate.success.asr_all': lambda w: dict(adv=w.pred, y=w.y), 'evaluate.success.asr_targeted': lambda w: dict(adv=w.pred, y=w.y, target=1), 'evaluate.success.clean_accuracy': lambda w: dict(pred=w.pred, y=w.y),
    'evaluate.success.worst_case': lambda w: dict(attacks=[asr_all(w.pred, w.y)]), 'evaluate.success.resamples': lambda w: dict(n=5, draws=3, seed=0),
    'evaluate.success.drawn_rates': lambda w: dict(s=asr_all(w.pred, w.y), weights=torch.ones(1, len(w.y)).numpy()), 'evaluate.success.paired_difference': lambda w: dict(a=asr_all(w.pred, w.y), b=asr_all(w.pred, w.y), draws=10, seed=0, level=.9),
    'evaluate.success.predict': lambda w: dict(net=w.net, data=w.x, bits=4, bs=4), 'evaluate.success.success': lambda w: dict(net=w.net, x=w.x, y=w.y, x_adv=w.x, bits=4, target=1, bs=4),
    'evaluate.success.null_success': lambda w: dict(net=w.net, x=w.x, y=w.y, size=4, bits=4, target=1, shape='square', seed=0),
    'evaluate.transfer.evaluation_images': lambda w: dict(net=w.net, dl=w.dl, n=4, seed=0), 'evaluate.transfer.image_hash': lambda w: dict(x=w.x, y=w.y),
    'evaluate.transfer.transfer_matrix': lambda w: dict(net=w.net, dl=w.dl, attacks=w.pgd, bits=(4, 2), n=4, n_attack=4, nulls=False, seed=0, bs=4, keep=0, progress=False),
    'evaluate.matrix.Transfer.success': lambda w: (w.matrix.success, dict(attack='pgd', source=4, target=4)), 'evaluate.matrix.Transfer.matrix': lambda w: (w.matrix.matrix, dict(what='value')),
    'evaluate.matrix.Transfer.to_frame': lambda w: (w.matrix.to_frame, dict(definition='asr')), 'evaluate.matrix.Transfer.threat_table': lambda w: (w.matrix.threat_table, dict(definition='asr')),
    'evaluate.matrix.Transfer.worst': lambda w: (w.matrix.worst, dict(definition='asr')), 'evaluate.matrix.Transfer.summary': lambda w: (w.matrix.summary, dict(definition='asr')),
    'evaluate.matrix.Transfer.save': lambda w: (w.matrix.save, dict(dir=w.folder/'new')), 'evaluate.threat.threat_level': lambda w: dict(made_at=(4,), target=4),
    'evaluate.alignment.alignment_report': lambda w: dict(net=w.net, dl=w.dl, bits=(4, 2), n=8, smooth=(0,), seed=0, bs=8, progress=False), 'evaluate.maps.gradient_maps': lambda w: dict(net=w.net, x=w.x, y=w.y, bits=(4, 2)),
    'evaluate.maps.stage_maps': lambda w: dict(net=w.net, x=w.x, y=w.y, bits=(4, 2)), 'evaluate.margins.scores': lambda w: dict(net=w.net, x=w.x, y=w.y, bits=4), 'evaluate.margins.transfer_bound': lambda w: dict(net=w.net, x=w.x, y=w.y, source=4),
    'evaluate.nulls.fresh_network': lambda w: dict(net=w.other, x=w.x, seed=0, bs=8),
    'evaluate.curves.area_curve': lambda w: dict(net=w.net, dl=w.dl, attack=w.pgd, sizes=(4,), bits=(4,), n=4, nulls=False, seed=0, bs=4, progress=False),
    'evaluate.curves.steps_curve': lambda w: dict(net=w.net, dl=w.dl, attack=w.pgd, budgets=(1,), bits=(4,), n=4, nulls=False, seed=0, bs=4, progress=False),
    'evaluate.curves.with_setting': lambda w: dict(attack=w.pgd, name='steps', value=2), 'evaluate.faults.broken': lambda w: dict(net=w.net, how='clipped', strength=1.),
    'evaluate.lines.AuditBudget': lambda w: dict(n=8, steps=1, step_size=.1, restarts=1, queries=2, copies=1, sigma=.1, n_smooth=2, smooth_steps=1, tolerance=.05, margin=.1),
    'evaluate.masking.Momentum': lambda w: dict(bits=4, decay=.9), 'evaluate.audit.audit': lambda w: dict(net=w.net, dl=w.dl, bits=(4, 2), n=8, budget=TINY, lines=(5,), seed=0, progress=False),
    'evaluate.suite.attack_suite': lambda w: dict(names=('pgd',), side=16, size=4, target=1, seed=0), 'evaluate.suite.at_area': lambda w: dict(attacks={'pgd': w.pgd}, share=.1, hw=(16, 16)),
    'evaluate.compare.compare': lambda w: dict(transfers={'net': w.matrix}), 'evaluate.page.check_report_folder': lambda w: dict(out=w.folder/'new'),
    'evaluate.report.report': lambda w: dict(nets=w.net, dl=w.dl, attacks=w.pgd, bits=(4, 2), n=4, n_attack=4, n_align=0, audit=False, seed=0, progress=False),
    'evaluate.sharded.check_shard': lambda w: dict(shard=(0, 2)), 'evaluate.sharded.predict_shard': lambda w: dict(net=w.net, data=ImageTensors(w.x, w.y), bits=(4,), shard=(0, 1), bs=4, progress=False),
    'recipe.load_recipe': lambda w: dict(name='cifar10', scale='toys'),
    # deployment and purification
    'deploy.extract.single_bit': lambda w: dict(net=w.net, bits=4), 'deploy.onnx.network_key': lambda w: dict(net=w.net, bits=4),
    'deploy.onnx.export_onnx': lambda w: dict(net=w.net, path=w.folder/'new.onnx', bits=4, example=w.x), 'deploy.onnx.check_writable_file': lambda w: dict(path=w.folder/'new.onnx'),
    'deploy.forms.check_form': lambda w: dict(net=w.net, form='integer', bits=4),
    'deploy.sealed.read_onnx': lambda w: dict(path=w.file), 'deploy.onnx.OnnxNet': lambda w: dict(path=w.file),
    'purify.jedi.JEDI': lambda w: dict(net=w.net, window=3, stride=1, bins=16, quantile=.9, dynamic=0., grow=1), 'purify.jedi.JEDI.calibrate': lambda w: (JEDI(w.net).calibrate, dict(dl=w.dl, n_batches=1)),
    'purify.jedi.JEDI.clean': lambda w: (JEDI(w.net).calibrate(w.dl).clean, dict(x=w.x)), 'purify.jedi.JEDI.fit': lambda w: (JEDI(w.net).fit, dict(dl=w.dl, steps=1, bs=4, lr=.1, sparsity=.1, width=4, seed=0, progress=False)),
    'purify.entropy.grey_levels': lambda w: dict(x=w.x, bins=16), 'purify.entropy.entropy_map': lambda w: dict(x=w.x, window=3, stride=1, bins=16), 'purify.masks.MaskCompleter': lambda w: dict(width=4),
    'purify.diffpure.DiffPure': lambda w: dict(net=w.net, model=Denoiser(4), t_star=10, steps=2, seed=0), 'purify.denoiser.Denoiser': lambda w: dict(width=4, channels=3), 'purify.denoiser.default_scheduler': lambda w: dict(T=10),
    'purify.denoiser.train_denoiser': lambda w: dict(dl=w.dl, steps=1, bs=4, lr=.1, max_t=10, width=4, seed=0, progress=False), 'purify.eot.EOT': lambda w: dict(bits=4, n=2, seed=0), 'purify.eot.at_seed': lambda w: dict(net=JEDI(w.net), seed=0)}

PATH = {'read file': ('pictures.read_image pictures.open_rgb classifiers.read_state quant.checkpoint.read_tensors quant.checkpoint.read_description quant.checkpoint.load_weights '
                      'quant.checkpoint.load_checkpoint attack.patch.Patch.load files.read_json deploy.sealed.read_onnx deploy.onnx.OnnxNet'),
        'read folder': 'cifar.cifar_dls cifar.cifar_tensors data.image_folder_dls folders.class_files train.folder.load_run',
        'write file': 'core.atomic_path files.write_json files.Resume quant.checkpoint.save_checkpoint attack.patch.Patch.save deploy.onnx.export_onnx deploy.onnx.check_writable_file',
        'write folder': 'train.folder.check_writable evaluate.page.check_report_folder'}

# what the comments do not say
KINDS = {'checks.check_bit': {'b': 'bit'}, 'networks.check_logits': {'out': 'logits'}, 'core.versions': {'device': 'device'}, 'evaluate.success.predict': {'data': 'images'},
         'percept.features.feature_map': {'f': 'maps'}, 'percept.gradients.gradient_map': {'g': 'maps'}, 'train.controls.roughness': {'g': 'maps'}, 'train.pbcat.guided_cells': {'g': 'maps', 'size': None},
         'pixels.images_at_once': {'x': None}, 'pixels.fast_layout': {'x': None}, 'networks.device_of': {'net': None}, 'networks.eval_mode': {'net': None}, 'files.Resume': {'key': None},
         'attack.placing.place': {'top_left': 'places', 'patch': 'patch'}, 'attack.patch.Patch.apply': {'top_left': 'places'}, 'attack.places.random_places': {'B': 'int', 'fixed': 'places'},
         'attack.patch.Patch': {'image': 'patch', 'shape_name': 'choice'}, 'attack.patch.Patch.load': {}, 'cifar.sample_dls': {'valid': 'choice'}, 'cifar.cifar_dls': {'valid': 'choice'},
         'models.build_model': {'name': 'choice'}, 'classifiers.check_arch': {'name': 'choice'}, 'classifiers.build_any': {'name': 'choice'}, 'classifiers.classifier': {'name': 'choice'},
         'quant.checkpoint.pretrained': {'name': 'choice'}, 'quant.checkpoint.save_checkpoint': {'arch': 'choice'}, 'quant.registry.make_quantizer': {'name': 'choice', 'kind': 'choice'},
         'quant.registry.quantizer_class': {'name': 'choice', 'kind': 'choice'}, 'quant.registry.quantizer_names': {'kind': 'choice'}, 'quant.switch.idle_parameters': {'active': None},
         'quant.layers.BitState': {'allowed': 'bits'}, 'evaluate.success.asr': {'clean': 'preds', 'adv': 'preds'}, 'evaluate.success.asr_all': {'adv': 'preds'},
         'evaluate.success.asr_targeted': {'adv': 'preds'}, 'evaluate.success.clean_accuracy': {'pred': 'preds'}, 'evaluate.success.drawn_rates': {'s': None, 'weights': None}, 'evaluate.success.resamples': {'n': 'int'}, 'train.diverse.wrong_agreement': {'a': 'logits', 'b': 'logits'}, 'evaluate.success.paired_difference': {'a': None, 'b': None},
         'evaluate.success.worst_case': {'attacks': None}, 'evaluate.compare.compare': {'transfers': 'attacks'}, 'evaluate.matrix.Transfer.success': {'attack': 'choice', 'source': 'choice', 'target': 'bit'},
         'evaluate.threat.threat_level': {'made_at': None, 'target': 'bit'}, 'evaluate.curves.with_setting': {'name': 'choice'}, 'recipe.load_recipe': {'name': 'choice', 'scale': 'choice'},
         'evaluate.suite.attack_suite': {'names': 'stage names', 'size': 'int', 'target': 'open target'}, 'evaluate.suite.at_area': {'share': 'share'}, 'toys.tensor_dls': {'device': 'device'}, 'attack.patch.Patch.to': {'device': 'device'},
         'evaluate.report.report': {'nets': 'network'}, 'evaluate.sharded.check_shard': {'shard': 'shard'}, 'evaluate.sharded.predict_shard': {'shard': 'shard', 'data': 'loader', 'folder': 'write folder'},
         'percept.features.tap_stages': {'names': 'stages'}, 'evaluate.lines.AuditBudget': {'size': None}, 'attack.placing.patch_mask': {'h': 'int', 'w': 'int', 'device': 'device'},
         'attack.placing.check_fits': {'hw': 'size'}, 'attack.places.allowed_places': {'hw': 'size'}, 'evaluate.rate.wilson': {'k': None, 'n': None}, 'penalty.fdp.bit_pairs': {'bits': 'bits'},
         'quant.norm.sync_norms': {}, 'purify.diffpure.DiffPure': {'model': None}, 'classifiers.Classifier': {}, 'data.image_folder_dls': {'share': 'open share'}, 'attack.ensemble.BackwardSwap': {'backward': 'choice'},
         'unfuse.unfuse': {'model': 'network'}, 'batches.take': {'n': 'int'}, 'deploy.onnx.export_onnx': {'form': 'choice', 'cpu': 'choice'}, 'deploy.forms.check_form': {'form': 'choice', 'cpu': 'choice', 'pixels': 'choice'},
         'quant.convert.to_multibit': {'sums': 'choice'}}
for names, kinds in {'toys.toy_images toys.toy_dls toys.trained_toy pictures.read_image data.image_folder_dls': {'size': 'int'}, 'pixels.Normalize.forward percept.features.stage_names': {'x': None}, 'quant.calibrate.calibrate purify.denoiser.train_denoiser': {'net': 'module', 'model': 'module'}, 'quant.norm.sync_norms': {'net': 'any module'},
                     'train.objective.Objective train.controls.SmoothObjective train.diverse.DiverseObjective attack.ensemble.FeaturePull': {'stages': 'stage list'}, 'attack.criteria.goal_loss attack.criteria.goal_met': {'y': 'unread labels'},
                     'attack.patch.Patch.save': {'path': 'new name'}, 'files.Resume': {'path': 'state file'}, 'purify.jedi.JEDI.clean purify.entropy.grey_levels purify.entropy.entropy_map': {'x': 'pixels'},
                     'purify.jedi.JEDI.fit purify.denoiser.train_denoiser': {'dl': 'image batches'}, 'evaluate.sharded.predict_shard': {'data': 'dataset'}, 'networks.check_logits': {'classes': None, 'n': None}, 'quant.registry.make_quantizer quant.quantizers.LSQ quant.quantizers.MinMax': {'shape': None},
                     'attack.placing.place attack.nulls.noise_patch attack.nulls.grey_patch attack.nulls.crop_patch attack.nulls.null_patch': {'x': 'pixels'},
                     'percept.features.feature_map': {'f': 'tensor'}, 'percept.gradients.gradient_map train.controls.roughness train.pbcat.guided_cells': {'g': 'tensor'},
                     'batches.take': {'dl': 'batches'}, 'datasets.ImageTensors datasets.split_tensors': {'x': 'dataset images', 'y': 'dataset labels'}, 'datasets.balanced_order': {'y': 'label order'},
                     'percept.edges.soft_edges': {'level': None}, 'quant.checkpoint.description_of': {'arch': None}, 'attack.places.allowed_places attack.places.random_places': {'hw': 'size'}, 'percept.edges.gaussian_smooth percept.edges.minmax_scale percept.edges.sobel_magnitude percept.edges.soft_edges': {'m': None},
                     'percept.hog.hog percept.hog.soft_hog percept.hog.hog_cosine': {'m': None, 'orientations': 'strict int', 'cell': 'strict int', 'block': 'strict int'},
                     'attack.ensemble.BackwardSwap': {'backward': 'unknown'}, 'train.callback.TriQDef': {'source': 'unknown'}, 'evaluate.audit.audit': {'parts': 'later folder'}, 'attack.placing.place': {'patch': 'patch pixels'},
                     'attack.cover.mask_starts': {'patch': 'int'}, 'attack.cover.mask_set': {'patch_hw': 'size'}, 'attack.cover.covered': {'hw': 'size'},
                     'evaluate.doublemask.DoubleMask': {'net': None, 'patch': 'size'}, 'evaluate.certified.certified': {'patch': 'size'},
                     'evaluate.nulls.fresh_network': {'net': 'module'}}.items():
    for n in names.split(): KINDS.setdefault(n, {}).update(kinds)
for kind, names in PATH.items():
    for n in names.split(): KINDS.setdefault(n, {}).setdefault('folder' if 'folder' in n.split('.')[-1] and 'dls' not in n or n.endswith(('class_files', 'load_run', 'check_writable')) else 'path', kind)
KINDS['evaluate.page.check_report_folder'] = {'out': 'write folder'}


def call_of(name, world):
    "The valid call of a name."
    made = CALLS[name](world)
    f, kwargs = made if isinstance(made, tuple) else (public()[name], made)
    return Call(name, f, kwargs, world, KINDS.get(name, {}))


# reason → names that have no entry
EXEMPT = {
    'takes no argument, or values that may be anything': '''settings.import_modules settings.later settings.takes_settings train.settings.find_methods train.settings.method_table store.slug quant.quantizers.quantizer_table quant.registry.register_quantizer attack.base.declared_attacks evaluate.suite.attack_budgets evaluate.suite.attack_names
        evaluate.suite.suite_table core.this_process pixels.warn_once core.asset epochs.EpochOrder cifar.sample_tensors deploy.runtime.saturates_here files.plain files.fingerprint layouts.imagenet_wnids
        layouts.imagenet_names quant.checkpoint.pretrained_names tables.paper_figures train.distributed.wait_for_all folders.natural_key deploy.runtime.need_modules''',
    'is a part of the command line, whose commands are tried below': '''commands.attacks.above_null commands.attacks.expected_time commands.attacks.fit_counts commands.attacks.fit_to commands.attacks.picked_attacks commands.attacks.targeted_attacks commands.checks.Rule
        commands.checks.budget_options commands.checks.check_options commands.checks.command_help commands.checks.command_parser commands.checks.idle_options commands.checks.least_values commands.checks.parse_options
        commands.checks.run_options commands.checks.set_command commands.checks.without_effect_by commands.demo.add_demo commands.evaluate.add_evaluate commands.export.add_export
        commands.export.exported_files commands.export.proven_file commands.options.add_methods commands.options.add_numbers commands.options.add_settings commands.options.as_typed
        commands.options.option_name commands.options.typed_options commands.options.written_options commands.options.train_settings commands.published.add_published commands.published.run_published commands.report.add_report_options
        commands.report.write_report commands.study.add_study commands.train.add_train commands.progress.progress_line commands.progress.Shown commands.progress.shown_progress commands.progress.tell_folder commands.progress.new_folder
        commands.networks.shipped_list commands.networks.is_onnx commands.networks.is_published commands.networks.network_kind commands.networks.Named commands.networks.FileNetwork commands.networks.as_network commands.networks.check_whole commands.networks.loaded commands.networks.typed_network commands.members.as_family commands.members.member_pairs
        commands.data.data_lines commands.data.as_data commands.data.as_multibit commands.data.add_data commands.data.check_data commands.data.check_loaded commands.data.warn_of_chance commands.sheet.sheet_places commands.sheet.check_sheet commands.sheet.patch_sheet commands.attack.Found commands.attack.add_attack
        commands.list.add_list commands.completion.command_table commands.completion.help_file commands.completion.stored_table commands.completion.completion_script commands.completion.add_completion''',
    'is itself a check, and has its lesson': '''quant.sums.check_sums train.guard.check_optimizer train.guard.check_batch_pair train.guard.class_labels checks.check_choice checks.check_int checks.check_ints checks.check_number checks.check_numbers checks.check_network labels.check_labels checks.check_device checks.check_generator checks.check_folder
        checks.as_path labels.as_labels checks.check_count networks.check_finite networks.warn_of_probabilities evaluate.success.warn_of_no_image settings.check_instance settings.check_method attack.placing.check_patched evaluate.bench.check_audited networks.logits_of networks.first_logits networks.unwrap batches.check_iterable batches.check_batch attack.placing.check_hw attack.placing.check_pixels attack.placing.check_places attack.places.check_where attack.views.check_has attack.base.check_attack percept.features.check_stages
        purify.denoiser.check_scheduler cells.check_cell_keys''',
    'is a step inside a loop, called with what its caller has checked': '''quant.sums.quantize_sums
        quant.flow.Flow quant.flow.Point quant.inputs.Joint quant.inputs.QInput quant.layers.quantized_input quant.rewired.own_graph quant.rewired.rewire
        batches.peek evaluate.certified.CertifySettings evaluate.detect.evaded evaluate.disagree.disagreement_of quant.adaround.adaptive_levels quant.calibrate.first_batches quant.outputs.Wanted quant.outputs.check_outputs quant.outputs.choose_levels quant.outputs.choose_step quant.outputs.fitting_outputs networks.hooked quant.outputs.read_by_norms quant.rewired.fx_graph attack.criteria.wide quant.outputs.outputs_of quant.outputs.wanted_outputs quant.outputs.windows
        quant.replace.inside_fused quant.replace.is_plain quant.replace.is_skipped quant.replace.plain_copy quant.replace.replace_layers quant.replace.swap_modules quant.replace.take_hooks quant.convertible.check_convertible quant.switch.only_state quant.convert.unquantized_layer toys.Watched attack.views.Called attack.state.plain_batch attack.pgd.step_for attack.patch.as_picture classifiers.head_tensors labels.Vocab loader.ImageLoaders datasets.ImageSet datasets.Pictures datasets.Stored folders.files_below
        quant.switch.inputs_ready quant.switch.warn_untouched folders.similar_names folders.is_picture folders.part_of folders.pictures_in pictures.picture_of folders.same_pictures folders.split_folders pictures.square pictures.upright quant.norm.keeps_statistics train.guard.Partner train.folder.alone train.build.check_same_classes train.settings.named_device
        train.settings.without_effect attack.criteria.top_other attack.criteria.at_class attack.views.View attack.ensemble.alike attack.state.attack_batches attack.state.seeded_loader attack.state.used_batches
        attack.state.first_state attack.lavan.Pulling attack.nes.nes_probes attack.nes.nes_estimate attack.placing.to_uint8_grid attack.places.is_free attack.policy.Evade attack.policy.agent_criterion
        attack.policy.Policy attack.boxes.box_mask attack.agent.PatchAgent attack.views.under_attack attack.views.unit_gradient attack.views.BitMean attack.views.gradient_to attack.views.look_at attack.views.RoundRobin
        attack.views.as_view attack.state.own_settings attack.state.state_key attack.state.state_file attack.state.save_state attack.state.load_state attack.base.best_of attack.proposals.corner_start attack.proposals.repaint
        attack.proposals.square_side attack.proposals.reach attack.proposals.nearby_places attack.sparse_rs.scores_of attack.textures.gram attack.textures.kmeans attack.textures.synthesise pictures.to_pixels epochs.crop_flip
        seeds.keyed_generator epochs.ahead cifar.pixel_hash pictures.as_rgb evaluate.agreement.look evaluate.agreement.as_map evaluate.agreement.raw_cosine evaluate.agreement.describe evaluate.agreement.agree
        evaluate.doublemask.looks_of train.masked.hide_two evaluate.nulls.shuffled evaluate.nulls.noise_null evaluate.paired.paired_gap evaluate.page.replace_folder evaluate.display.text_block evaluate.display.side_by_side evaluate.tables.seen_means evaluate.tables.rate_cell evaluate.tables.table_rows
        evaluate.page.md_table evaluate.suite.default_attacks evaluate.suite.make_textures evaluate.bench.seeing_bits evaluate.maps.bits_with_gradients evaluate.maps.common_stages attack.base.sees_scores quant.switch.gradient_bits quant.switch.shares_weights quant.switch.is_family evaluate.success.at_chance quant.switch.running_of checks.is_name checks.bit_text files.read_bit evaluate.sharded.work_key evaluate.sharded.shard_path evaluate.plan.attack_settings evaluate.plan.attack_name evaluate.plan.source_label
        evaluate.plan.seeded_copy evaluate.plan.for_images evaluate.parts.run_jobs evaluate.drawing.heat_cells evaluate.drawing.draw_matrices store.save_png store.records store.save_table store.save_tensors store.load_tensors
        store.save_result store.load_result evaluate.agreement.looks evaluate.lines.rate_text evaluate.parts.Parts evaluate.parts.attack_identity evaluate.parts.job_key
        evaluate.parts.loader_identity evaluate.plan.AttackPlan evaluate.plan.attack_plans folders.train_valid_folders train.folder.begin_run train.folder.hold_folder
        train.folder.run_record train.folder.settings_differ train.folder.sweep_folder train.guard.mark train.guard.spare_steps train.guard.unchanged train.passes.company_of attack.boxes.spread train.ranks.check_loaders
        deploy.nodes.level_bits deploy.nbits.exact_sums deploy.extract.input_levels deploy.tracing.read_once deploy.tracing.left_whole deploy.tracing.traced deploy.tracing.bare deploy.levels.largest
        percept.maps.full percept.edges.safe_sqrt percept.edges.edge_level percept.edges.soft_iou percept.features.fold_tokens percept.gradients.gradient_from_logits percept.hog.central_differences
        percept.hog.orientation_bins percept.hog.cell_histograms percept.hog.normalize_blocks percept.hog.cosine percept.hog.default_cell purify.denoiser.sine_embedding purify.denoiser.noise_loss purify.entropy.spread_windows
        purify.inpaint.inpaint purify.masks.noise_boxes purify.masks.mask_loss purify.masks.mask_iou purify.base.save_parts purify.base.load_parts purify.base.fill_module train.passes.switch_once
        train.passes.first_steps evaluate.bench.AuditSettings evaluate.bench.AuditBench evaluate.bench.make_bench settings.settings_of loader.LoaderSettings imagenet.ImageNetSettings attack.textures.TextureSettings purify.denoiser.DenoiserSettings
        evaluate.success.NullSettings evaluate.alignment.AlignmentSettings evaluate.curves.CurveSettings evaluate.jobs.TransferSettings evaluate.jobs.TransferWork
        evaluate.lines.audit_line evaluate.lines.LineDeclaration evaluate.lines.not_run evaluate.lines.all_of evaluate.lines.decided evaluate.lines.reaches evaluate.lines.stays_below evaluate.lines.compare_runs evaluate.lines.none_stronger evaluate.strength.white_box_beats_transfer
        evaluate.strength.gradient_beats_search evaluate.strength.rises_with_area evaluate.strength.budget_suffices evaluate.masking.gradients_exist evaluate.masking.no_better_loss evaluate.masking.no_better_backward
        evaluate.masking.no_gain_by_smoothing evaluate.strength.no_gain_by_ensembles evaluate.strength.no_gain_by_features evaluate.controls.tools_work evaluate.controls.export_agrees
        evaluate.report.ReportSettings evaluate.parts.network_identity evaluate.transfer.batches_up_to train.objective.patched_passes train.objective.pairs_within train.objective.clean_losses classifiers.fill quant.ste.wanted_inputs quant.conv.is_ours
        quant.conv.conv2d attack.placing.paste attack.transfers.move_together attack.base.attack_again train.optimizer.AdamAtOnce train.optimizer.adam_at_once quant.kept.Kept
        quant.joined.quantize_all quant.joined.Steps quant.ste.grad_scaled quant.norm.counted_together train.pbat32.copy_norms train.pbat32.TwoStage percept.closed.ClosedForm percept.edges.magnitude percept.edges.along penalty.fdp.maps_of_stages
        penalty.fdp.stage_likeness penalty.gpdp.both_penalties attack.placing.on_uint8_grid''',
    'is a layer or a quantizer that to_multibit or unfuse puts in': '''train.passes.Alone train.declare.DeclaredMethod train.passes.company train.distributed.Together train.distributed.reached_params train.distributed.share_quantizers quant.norm.FreeBatchNorm quant.layers.QConv2d quant.layers.QLinear quant.norm.batch_norm quant.norm.synced_batch_norm quant.norm.MultiBitNorm quant.base.Quantizer
        quant.steps.rows_by_step quant.steps.lsq_step quant.steps.mse_step quant.quantizers.Cover quant.quantizers.DoReFa quant.quantizers.PACT quant.adaround.AdaRound quant.ste.round_ste quant.ste.quantize_composed quant.ste.quantize quant.ste.grad_from
        quant.padding.same_pads quant.padding.pad_input quant.padding.SameConv2d unfuse.Attention unfuse.HardSigmoid purify.base.Purifier evaluate.faults.Broken''',
    'is a base class or a declaration of an attack, and is tried in test_add_attack': '''attack.base.Attack attack.base.ImageAttack attack.base.UniversalAttack
        attack.base.Brief attack.base.DeclaredAttack attack.base.declare''',
    'is a result that the library makes': '''attack.agent.PatchAttackRun attack.base.PatchRun evaluate.aligned.Alignment evaluate.lines.AuditLine evaluate.audit.Audit evaluate.compare.Comparison evaluate.paired.Gap
        evaluate.curve.Curve evaluate.tables.Report evaluate.tables.CertifiedShare evaluate.certified.Certificate evaluate.detect.Detection evaluate.doublemask.Decision evaluate.questions.Section evaluate.seen.TrainingConfiguration evaluate.sharded.Predictions evaluate.success.Success evaluate.matrix.Transfer train.objective.Terms cells.Unit''',
    'draws or prints such a result': '''evaluate.figures.dots_figure evaluate.rate.share_text evaluate.page.data_uri shipped.classes_at shipped.defence_page shipped.networks_page shipped.plot_classes
        shipped.worst_cell pictures.show_images cifar.tiles evaluate.maps.draw_gradient_maps evaluate.maps.gradient_maps_figure evaluate.maps.draw_stage_maps evaluate.maps.feature_maps_figure
        evaluate.seen.training_configuration evaluate.seen.seen_table evaluate.seen.by_setting collection.collect collection.store_study collection.stored_recipes collection.cells_of collection.missing tables.over_seeds tables.beside
        tables.study_tables pages.study_remark pages.clean_page pages.transfer_page pages.difference_page pages.alignment_page pages.ablation_page pages.paper_page results.verdict results.plot_study results.tradeoff results.plot_tradeoff results.level_panels pages.search_page equal.equal_accuracy equal.plot_curves''',
    'works on files, and is tried with damaged and absent ones in test_bad_input, test_imagenet or test_study': '''pictures.read_images datasets.FileSet datasets.ImageFiles attack.dictionary.TextureDictionary attack.textures.class_images attack.patchattack.TPA evaluate.imagenet.multibit_classifier
        evaluate.imagenet.imagenet_accuracy evaluate.sharded.gather_shards presets.Preset presets.preset_of layouts.validation_labels layouts.has_train layouts.imagenet_files imagenet.stratified_order
        imagenet.random_window imagenet.ImageNetFiles imagenet.unreadable imagenet.imagenet_valid imagenet.imagenet_dls recipe.Recipe recipe.make_attack cells.read_cell cells.to_hex cells.from_hex cells.images_of
        cells.transfer_of study.Arm study.study''',
    'is tried with bad settings in test_bad_input or test_distributed, or below as a command': '''commands.attacks.make_attacks cli.parser cli.main train.accuracy.accuracy_at train.accuracy.AccuracyAt train.distributed.join_processes train.distributed.by_first train.ranks.RankLoader
        train.distributed.RankTrainer train.distributed.distributed train.traffic.communication train.settings.StartSettings train.settings.TrainSettings quant.checkpoint.load_start train.build.preset_for train.build.make_data train.build.make_network
        train.build.make_callback train.settings.own_options train.settings.settings_from train.settings.MethodSettings train.declare.training_method train.folder.RunState train.run.train train.run.Bfloat16 train.settings.recorded_settings''',
    'works on an exported file, and is tried in test_deploy or test_integer': '''deploy.inputs.on_levels deploy.inputs.IntInput deploy.inputs.norm_layer deploy.layers.to_levels deploy.layers.int_conv deploy.layers.int_linear deploy.layers.IntLayer deploy.layers.IntConv2d deploy.layers.IntLinear deploy.extract.weight_levels
        deploy.fold.norm_pairs deploy.fold.fold_norms deploy.extract.integer_table deploy.operators.translations deploy.nodes.OnnxGraph deploy.onnx.round_bias deploy.sealed.seal deploy.onnx.class_names deploy.runtime.ort_session deploy.runtime.run_session deploy.sealed.is_sealed deploy.onnx.sealed_net
        deploy.levels.OnnxLevels deploy.levels.LayerParity deploy.levels.ParityError deploy.levels.led_by deploy.verdict.Parity deploy.parity.check_parity deploy.parity.plain_floats deploy.parity.exported_success
        deploy.speed.kind_of deploy.speed.kernels deploy.speed.latencies''',
    'reads a file of another tool or joins networks, and is tried in test_family': '''deploy.foreign.OnnxInput deploy.foreign.Reading deploy.foreign.reading_of deploy.foreign.misfit deploy.foreign.file_key
        deploy.family.Member deploy.family.Members deploy.family.Family deploy.family.as_member deploy.family.family deploy.family.member_table deploy.family.readings'''}
